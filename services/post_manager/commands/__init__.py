"""The subcommands of `post_manager`, one file each: what an admin does with a store beside running it."""

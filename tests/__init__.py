"""The tests: unit, dialogs, fuzz, integration, e2e and interop, each in its directory."""

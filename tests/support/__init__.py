"""What several tests share: waiting for conditions, loopback servers, fakes."""

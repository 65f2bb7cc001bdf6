"""The services, one package each; they share code only through stubmail."""

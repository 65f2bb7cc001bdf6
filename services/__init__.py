"""The services, one package each; they share code only through stubmail."""

import gc

# Nearly all that is made while a service starts stays: Python's collector would look through it after each 700 objects,
# which takes a fifth of the time until a store answers, by CGI with each request.
gc.set_threshold(5_000)

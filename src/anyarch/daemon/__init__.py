"""The daemon `anyarchd`: the engine behind BuildKit's API.

Listeners, configuration, signals, and the services that turn requests into calls of the engine. How calls
travel is `api`'s business, what the client lends `session`'s, what is built the engine's.
"""

"""The build graph as data: BuildKit's LLB. Operations, definitions, wire bytes, a fluent builder."""

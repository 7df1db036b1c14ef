"""Helpers for tests of anyarch and of programs that embed it: registries, base images, a build runner."""

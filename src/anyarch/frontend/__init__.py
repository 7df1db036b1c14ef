"""Frontends: what turns a build description into an LLB definition."""

"""The Dockerfile frontend: parser, expansion, checks, ignore files, conversion to LLB."""

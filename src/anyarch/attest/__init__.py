"""What is said of a build beside its result: provenance (SLSA) and the graph of a scan for an SBOM."""

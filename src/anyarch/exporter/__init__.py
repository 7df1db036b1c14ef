"""Results leave the builder: image manifests and indexes, archives, directories, registries, engine
stores."""

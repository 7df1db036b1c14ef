"""Look at images by reference: registries and OCI layouts, as text, as JSON, as they are."""

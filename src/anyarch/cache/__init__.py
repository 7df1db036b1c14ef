"""Build caches outside the store: in registries, in local directories, in the images themselves."""

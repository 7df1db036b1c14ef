"""The one HTTP client: keep-alive pool, proxies, TLS, redirects, retries, cancellation. No registry lore."""

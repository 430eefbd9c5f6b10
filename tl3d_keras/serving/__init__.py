"""TF Serving's two APIs: a client, a local server for tests and laptops, warm-up requests."""

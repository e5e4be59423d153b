"""Who looks on: progress, Prometheus, OpenTelemetry."""

#!/bin/sh
# Build an OpenTelemetry collector and Jaeger once, for tests, and print their folder. Needs Go, and minutes.
set -eu
collector=0.165.0 jaeger=1.76.0
home=${XDG_CACHE_HOME:-$HOME/.cache}/barograph/otel-$collector-$jaeger

if [ ! -d "$home" ]; then
    mkdir -p "$(dirname "$home")"
    place=$(mktemp -d "$home.XXXXXX")
    trap 'rm -rf "$place"' EXIT
    mkdir "$place/bin" "$place/collector" "$place/jaeger"
    cat >"$place/builder.yaml" <<YAML
dist: {name: otelcol, module: otelcol, output_path: $place/collector}
receivers:
- gomod: go.opentelemetry.io/collector/receiver/otlpreceiver v$collector
processors:
- gomod: go.opentelemetry.io/collector/processor/batchprocessor v$collector
exporters:
- gomod: go.opentelemetry.io/collector/exporter/otlphttpexporter v$collector
YAML
    (
        cd "$place/jaeger"
        go run "go.opentelemetry.io/collector/cmd/builder@v$collector" --config ../builder.yaml
        mv ../collector/otelcol ../bin
        go mod init jaeger
        go get -tool "github.com/jaegertracing/jaeger/cmd/jaeger@v$jaeger"
        go build -o ../bin/jaeger github.com/jaegertracing/jaeger/cmd/jaeger
    ) >"$place/log" 2>&1 || { tail -20 "$place/log" >&2; exit 1; }
    mv -T "$place/bin" "$home" 2>/dev/null || [ -d "$home" ] # another build was quicker
fi
echo "$home"

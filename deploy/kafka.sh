#!/bin/sh
# Fetch Apache Kafka and its tools once, for tests, and print the folder of their jars. Needs Maven, and Java 17 to run them.
set -eu
version=4.4.0
home=${XDG_CACHE_HOME:-$HOME/.cache}/barograph/kafka-$version

if [ ! -d "$home" ]; then
    mkdir -p "$(dirname "$home")"
    place=$(mktemp -d "$home.XXXXXX")
    trap 'rm -rf "$place"' EXIT
    cat >"$place/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>barograph</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
    mvn -q -B -f "$place/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DoutputDirectory="$place/libs" \
        >"$place/log" 2>&1 || { cat "$place/log" >&2; exit 1; }
    mv -T "$place/libs" "$home" 2>/dev/null || [ -d "$home" ] # another build was quicker
fi
echo "$home"

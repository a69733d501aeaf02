-- The topic of verdicts into ClickHouse, by its own Kafka engine. Broker, topic and group are yours to set.
-- Kafka gives a record at least once; ReplacingMergeTree keeps one of each seq: ask with FINAL.

CREATE TABLE verdicts_queue (
    kind String, seq UInt64, time Float64, event String, stream String, rule String, action String, mode String, severity String,
    position UInt64, signals Map(String, Nullable(Float64))
) ENGINE = Kafka SETTINGS
    kafka_broker_list = '127.0.0.1:9092', kafka_topic_list = 'barograph.verdicts', kafka_group_name = 'clickhouse-verdicts',
    kafka_format = 'JSONEachRow', kafka_flush_interval_ms = 1000,
    kafka_handle_error_mode = 'stream'; -- else one message that is no JSON holds up all behind it

CREATE TABLE verdicts (
    kind LowCardinality(String), seq UInt64, time DateTime64(6, 'UTC'), event LowCardinality(String), stream String, rule LowCardinality(String),
    action LowCardinality(String), mode LowCardinality(String), severity LowCardinality(String), position UInt64, signals Map(String, Nullable(Float64))
) ENGINE = ReplacingMergeTree ORDER BY seq;

CREATE TABLE verdicts_bad (partition UInt64, offset UInt64, raw String, error String) ENGINE = ReplacingMergeTree ORDER BY (partition, offset);

CREATE MATERIALIZED VIEW verdicts_good_way TO verdicts AS
SELECT kind, seq, toDateTime64(time, 6, 'UTC') AS time, event, stream, rule, action, mode, severity, position, signals
FROM verdicts_queue WHERE length(_error) = 0 AND kind = 'verdict';

CREATE MATERIALIZED VIEW verdicts_bad_way TO verdicts_bad AS
SELECT _partition AS partition, _offset AS offset, _raw_message AS raw, _error AS error
FROM verdicts_queue WHERE length(_error) > 0;

-- SELECT rule, mode, count() FROM verdicts FINAL GROUP BY ALL

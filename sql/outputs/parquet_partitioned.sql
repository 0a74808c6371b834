-- Parquet in a directory per airport, exactly once. Any reader of the directory sees each row once, after any crash.
-- Run again, the flow goes on from its checkpoint and adds nothing.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, origin STRING, dest STRING
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE long_delays STORED AS PARQUET LOCATION 'out/parquet_partitioned/long_delays/'
PARTITIONED BY (origin);

CREATE FLOW parquet_partitioned OUTPUT MODE append TRIGGER AVAILABLE NOW
  CHECKPOINT 'out/parquet_partitioned/checkpoint'
AS INSERT INTO long_delays
SELECT sched_dep, origin, dest, carrier, flight, dep_delay
FROM STREAM flights
WHERE dep_delay >= 120;

SELECT origin, count(*) AS flights, max(dep_delay) AS longest_delay FROM long_delays GROUP BY origin ORDER BY origin;

-- CREATE STREAMING TABLE is a table and the flow that fills it in one statement.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE STREAMING TABLE half_days
  STORED AS PARQUET LOCATION 'out/streaming_table/half_days/'
  TRIGGER AVAILABLE NOW
AS SELECT window.start AS half_day, origin, count(*) AS flights, avg(dep_delay) AS delay
FROM STREAM flights
GROUP BY window(sched_dep, '12 hours'), origin;

SELECT count(*) AS windows, sum(flights) AS flights FROM half_days;

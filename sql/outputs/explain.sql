-- EXPLAIN FLOW shows the plan that every micro-batch runs, with its stateful operators.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE nowhere STORED AS NOOP;

CREATE FLOW explained OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO nowhere
SELECT window.start AS hour, origin, avg(dep_delay) AS delay
FROM STREAM flights
WHERE origin <> 'LGA'
GROUP BY window(sched_dep, '1 hour'), origin;

EXPLAIN FLOW explained;

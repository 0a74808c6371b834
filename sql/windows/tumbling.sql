-- Tumbling windows in append mode: a window leaves once, in the batch after the watermark passed its end.
-- The watermark is the newest event time less three hours: the table's own WATERMARK FOR.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW tumbling OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window.start AS from_time, window.end AS to_time, origin, count(*) AS flights, avg(dep_delay) AS delay
FROM STREAM flights
GROUP BY window(sched_dep, '6 hours'), origin;

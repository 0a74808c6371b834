-- The event time itself as the key: a group closes when the watermark reaches its instant.
-- HAVING keeps the busiest minutes.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW event_time_key OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT sched_dep, count(*) AS flights
FROM STREAM flights
GROUP BY sched_dep
HAVING count(*) >= 15;

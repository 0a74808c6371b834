-- HAVING filters groups, not rows: the hours and airports whose flights left half an hour late on average.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW having_delays OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window.start AS hour, origin, count(*) AS flights, avg(dep_delay) AS delay
FROM STREAM flights
GROUP BY window(sched_dep, '1 hour'), origin
HAVING avg(dep_delay) > 30 AND count(*) >= 5;

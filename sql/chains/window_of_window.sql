-- A window of windows: flights by the hour, and of each day the busiest hour and the mean. A day closes in the batch in
-- which the last of its hours does.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW busiest_hours OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window.start AS day, origin, max(flights) AS busiest_hour, avg(flights) AS mean_hour, sum(flights) AS flights
FROM (
  SELECT window AS hour, origin, count(*) AS flights
  FROM STREAM flights GROUP BY window(sched_dep, '1 hour'), origin
) AS hourly
GROUP BY window(hour, '1 day'), origin;

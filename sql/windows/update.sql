-- The same windows in update mode: every batch gives the windows it touched, as they stand now.
-- A reader sees early figures, and corrections until the watermark closes the window.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW window_update OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window.start AS day, count(*) AS flights, max(dep_delay) AS longest_delay
FROM STREAM flights
GROUP BY window(sched_dep, '1 day');

-- Sessions: rows of one key that follow each other within a gap. An airport's day, from departure to departure, is over
-- when nothing has left for half an hour. Sessions merge while rows come, so there is no update mode.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW airport_days OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT session_window.start AS first_departure, session_window.end AS over_at, origin,
       count(*) AS flights, avg(dep_delay) AS delay
FROM STREAM flights
GROUP BY session_window(sched_dep, '30 minutes'), origin;

-- A start offset: windows align to 1970-01-01 00:00 UTC unless told otherwise. Airline days that begin at 04:00.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW start_offset OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window.start AS day_begins, origin, count(*) AS flights, count_if(dep_delay > 60) AS over_an_hour_late
FROM STREAM flights
GROUP BY window(sched_dep, '1 day', '1 day', '4 hours'), origin;

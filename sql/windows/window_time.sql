-- window_time gives the last instant of a window (its end less a microsecond): one timestamp to go on with.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW last_instants OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window_time(window) AS last_instant, origin, flights
FROM (
  SELECT window, origin, count(*) AS flights FROM STREAM flights GROUP BY window(sched_dep, '12 hours'), origin
) AS counted;

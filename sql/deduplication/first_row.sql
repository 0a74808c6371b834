-- ROW_NUMBER() … = 1 keeps the earliest row of each key by event time, however late it comes: the first departure of
-- each airport's day. It leaves once the watermark has passed its time. With the day among the keys they are forgotten.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, origin STRING, dest STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW first_of_day OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT origin, sched_dep, dep_delay, carrier, flight, dest
FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY origin, window(sched_dep, '1 day') ORDER BY sched_dep) AS nth
  FROM STREAM flights
) AS numbered
WHERE nth = 1;

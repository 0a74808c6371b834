-- Sliding windows: twelve hours long, a new one every six, so each flight counts in two of them.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW sliding OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window.start AS from_time, window.end AS to_time, count(*) AS flights, max(dep_delay) AS longest_delay
FROM STREAM flights
GROUP BY window(sched_dep, '12 hours', '6 hours');

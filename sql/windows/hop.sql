-- HOP as a table function: first the slide, then the size. A row comes once for each window that holds it.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW hop_rows OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window_start, window_end, count(*) AS flights, max(dep_delay) AS longest_delay
FROM TABLE(HOP(TABLE flights, DESCRIPTOR(sched_dep), INTERVAL '6' HOUR, INTERVAL '12' HOUR))
GROUP BY window_start, window_end;

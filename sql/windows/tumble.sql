-- TUMBLE as a table function: the rows of a stream, with window_start and window_end beside them.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW tumble_rows OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window_start, window_end, count(*) AS flights, max(dep_delay) AS longest_delay
FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(sched_dep), INTERVAL '6' HOUR))
GROUP BY window_start, window_end;

-- CUMULATE as a table function: first the step, then the size. Each day's windows begin at midnight and grow by six
-- hours, so that a day has a count so far at six, twelve and eighteen hours, and its own at the end.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW cumulate_rows OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window_start, window_end, count(*) AS flights, max(dep_delay) AS longest_delay
FROM TABLE(CUMULATE(TABLE flights, DESCRIPTOR(sched_dep), INTERVAL '6' HOUR, INTERVAL '1' DAY))
GROUP BY window_start, window_end;

-- Several inputs, one watermark. By default it is the least of theirs (min): the slowest input holds windows open.
-- With max the fastest closes them, and rows of the slow one may come too late.

SET multipleWatermarkPolicy = max;

CREATE UNBOUNDED EXTERNAL TABLE mornings (sched_dep TIMESTAMP, origin STRING)
STORED AS JSON LOCATION 'sql/data/flights/*T06.ndjson' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE UNBOUNDED EXTERNAL TABLE evenings (sched_dep TIMESTAMP, origin STRING)
STORED AS JSON LOCATION 'sql/data/flights/*T18.ndjson' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW watermark_policy OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window.start AS from_time, count(*) AS flights
FROM (
  SELECT sched_dep FROM STREAM mornings WATERMARK sched_dep DELAY OF INTERVAL 3 HOURS
  UNION ALL
  SELECT sched_dep FROM STREAM evenings WATERMARK sched_dep DELAY OF INTERVAL 3 HOURS
) AS both_parts
GROUP BY window(sched_dep, '6 hours');

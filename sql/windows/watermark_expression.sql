-- WATERMARK on an expression: AS gives it a name, and it is a column of the relation from then on.
-- Here the event time is inside a line of text.

CREATE UNBOUNDED EXTERNAL TABLE lines (value STRING)
STORED AS TEXT LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW watermark_expression OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window.start AS from_time, count(*) AS flights
FROM STREAM lines
  WATERMARK CAST(get_json_object(value, '$.sched_dep') AS TIMESTAMP) AS departure DELAY OF INTERVAL 3 HOURS AS l
GROUP BY window(departure, '12 hours');

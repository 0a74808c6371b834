-- Filter and project: the flights that left at least four hours late.
-- Nothing is remembered between batches, so rows leave in the batch that brought them.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, origin STRING, dest STRING
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW filter_rows OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT sched_dep, carrier, flight, origin, dest, dep_delay / 60.0 AS hours_late
FROM STREAM flights
WHERE dep_delay >= 240;

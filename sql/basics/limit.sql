-- LIMIT in append mode counts across batches: the first five rows of the stream, then nothing more.
-- How many have left is kept in the checkpoint; a restart does not begin to count again.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW first_five OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT sched_dep, carrier, flight, dep_delay
FROM STREAM flights
WHERE dep_delay >= 60
LIMIT 5;

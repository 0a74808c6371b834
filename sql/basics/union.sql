-- UNION ALL of two streams: each side is read by itself and has its own place in the checkpoint.
-- LOCATION may be a pattern: here the files of the mornings, and those of the evenings.

CREATE UNBOUNDED EXTERNAL TABLE mornings (carrier STRING, flight INT, dep_delay INT)
STORED AS JSON LOCATION 'sql/data/flights/*T06.ndjson' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE UNBOUNDED EXTERNAL TABLE evenings (carrier STRING, flight INT, dep_delay INT)
STORED AS JSON LOCATION 'sql/data/flights/*T18.ndjson' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW union_of_two OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT 'morning' AS part, carrier, flight, dep_delay FROM STREAM mornings WHERE dep_delay >= 240
UNION ALL
SELECT 'evening' AS part, carrier, flight, dep_delay FROM STREAM evenings WHERE dep_delay >= 240;

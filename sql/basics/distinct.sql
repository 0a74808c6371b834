-- SELECT DISTINCT is an aggregate without functions: in update mode a value that comes again is given again.
-- In complete mode each batch gives every value so far.

CREATE UNBOUNDED EXTERNAL TABLE flights (carrier STRING, origin STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW distinct_carriers OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT DISTINCT carrier, origin
FROM STREAM flights
WHERE carrier IN ('AS', 'F9', 'HA', 'YV');

-- Running totals in update mode: a batch gives the groups that it touched, with their value so far.

CREATE UNBOUNDED EXTERNAL TABLE flights (carrier STRING, distance INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW running_totals OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT carrier, count(*) AS flights, sum(distance) AS miles
FROM STREAM flights
WHERE carrier IN ('HA', 'F9', 'YV')
GROUP BY carrier;

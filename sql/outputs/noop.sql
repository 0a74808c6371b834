-- NOOP reads, computes and throws away: to see what a query costs without its output.

CREATE UNBOUNDED EXTERNAL TABLE flights (dep_delay INT, carrier STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE nowhere STORED AS NOOP;

CREATE FLOW to_noop OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO nowhere
SELECT carrier, count(*) AS flights, avg(dep_delay) AS delay
FROM STREAM flights
GROUP BY carrier;

-- A MEMORY table can be queried in this process, here once its flow has ended. It is gone with the process.

CREATE UNBOUNDED EXTERNAL TABLE flights (dep_delay INT, carrier STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE totals STORED AS MEMORY;

CREATE FLOW to_memory OUTPUT MODE complete TRIGGER AVAILABLE NOW
AS INSERT INTO totals
SELECT carrier, count(*) AS flights, max(dep_delay) AS longest_delay
FROM STREAM flights
GROUP BY carrier;

SELECT carrier, flights, longest_delay FROM totals WHERE flights > 500 ORDER BY flights DESC;

-- Complete mode gives the whole result after each batch, so it may be sorted and cut: the five busiest airlines.

CREATE UNBOUNDED EXTERNAL TABLE flights (carrier STRING, distance INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW leaderboard OUTPUT MODE complete TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT carrier, count(*) AS flights, sum(distance) AS miles
FROM STREAM flights
GROUP BY carrier
ORDER BY flights DESC, carrier
LIMIT 5;

-- explode makes a row of every element of an array: airports by the flights that begin or end there.

CREATE UNBOUNDED EXTERNAL TABLE flights (origin STRING, dest STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW explode_airports OUTPUT MODE complete TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT airport, count(*) AS flights
FROM (SELECT explode(make_array(origin, dest)) AS airport FROM STREAM flights) AS ends
GROUP BY airport
ORDER BY flights DESC, airport
LIMIT 6;

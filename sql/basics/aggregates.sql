-- Spark's aggregates: the farthest destination, the share of late flights, how many destinations.
-- approx_count_distinct keeps a sketch of fixed size, however many values there are.

CREATE UNBOUNDED EXTERNAL TABLE flights (dep_delay INT, origin STRING, dest STRING, distance INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW aggregates OUTPUT MODE complete TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT origin,
       max_by(dest, distance) AS farthest,
       count_if(dep_delay > 15) AS late,
       count(*) AS flights,
       approx_count_distinct(dest) AS destinations
FROM STREAM flights
GROUP BY origin
ORDER BY origin;

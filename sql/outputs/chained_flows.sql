-- A flow may read what another writes: each batch of the first becomes new input of the second.
-- Under AVAILABLE NOW the first runs to its end, then the second.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, dep_delay INT, carrier STRING, origin STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE late_departures STORED AS PARQUET LOCATION 'out/chained_flows/late_departures/';
CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW keep_late OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO late_departures
SELECT sched_dep, origin, carrier, dep_delay FROM STREAM flights WHERE dep_delay > 60;

CREATE FLOW count_late OUTPUT MODE complete TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT origin, count(*) AS flights, max(dep_delay) AS longest_delay
FROM STREAM late_departures
GROUP BY origin
ORDER BY origin;

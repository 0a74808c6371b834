-- Lookup join: each flight with its airline as the table is now. Its files are listed every ten minutes at most.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE airlines STORED AS CSV LOCATION 'sql/data/airlines.csv'
OPTIONS ('format.has_header' 'true', 'refreshInterval' '10 minutes');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW lookup_join OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT f.sched_dep, a.name, f.flight, f.dep_delay
FROM STREAM flights AS f
LEFT JOIN airlines FOR SYSTEM_TIME AS OF PROCTIME() AS a ON f.carrier = a.carrier
WHERE f.dep_delay >= 240;

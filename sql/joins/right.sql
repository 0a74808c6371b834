-- Right join, the stream on the right: the mirror image of a left join.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE airlines STORED AS CSV LOCATION 'sql/data/airlines.csv' OPTIONS ('format.has_header' 'true');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW right_join OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT a.name, f.sched_dep, f.flight, f.dep_delay
FROM airlines AS a
RIGHT JOIN STREAM flights AS f ON f.carrier = a.carrier
WHERE f.dep_delay >= 300;

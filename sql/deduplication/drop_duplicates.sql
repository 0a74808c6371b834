-- DROP_DUPLICATES lets the first row of each key through, in the order in which rows come: the planes of the smallest
-- airlines, each where it was first seen. Without the event time among the columns a key is remembered for ever.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, carrier STRING, tailnum STRING, dest STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW planes OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT tailnum, carrier, sched_dep, dest
FROM DROP_DUPLICATES(STREAM flights, tailnum)
WHERE carrier IN ('AS', 'F9', 'HA', 'YV');

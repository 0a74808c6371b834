-- A view over a stream is a stream: give a name to a step, and use it in several flows.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, origin STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE VIEW long_delays AS
SELECT sched_dep, origin, carrier, flight, dep_delay FROM STREAM flights WHERE dep_delay >= 180;

CREATE FLOW from_view OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT sched_dep, carrier, flight, dep_delay
FROM long_delays
WHERE origin = 'JFK';

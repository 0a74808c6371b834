-- CASE and casts: a word for how late a flight was, the date of its timestamp, miles as kilometres.
-- A flight that was diverted has no arrival delay: NULL takes no branch of the CASE but ELSE.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, carrier STRING, flight INT, distance INT, arr_delay INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW case_and_cast OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT CAST(sched_dep AS DATE) AS day, carrier, CAST(flight AS STRING) AS flight,
       round(CAST(distance AS DOUBLE) * 1.609344, 1) AS km,
       CASE WHEN arr_delay <= 15 THEN 'on time' WHEN arr_delay > 15 THEN 'late' ELSE 'diverted' END AS arrival
FROM STREAM flights
WHERE arr_delay IS NULL OR arr_delay > 240;

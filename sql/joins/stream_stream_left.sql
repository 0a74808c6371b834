-- Left join of two streams: planes that left very late, and when they left New York again within twelve hours. A plane
-- that did not leaves alone, once the watermark says that it cannot have: twelve hours and the delay later.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, tailnum STRING, dest STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW left_again OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT late.tailnum, late.sched_dep, late.dep_delay, late.dest,
       again.sched_dep AS again_at, again.dep_delay AS delay_again
FROM (SELECT * FROM STREAM flights WHERE dep_delay >= 150) AS late
LEFT JOIN STREAM flights AS again
  ON again.tailnum = late.tailnum
  AND again.sched_dep > late.sched_dep AND again.sched_dep - late.sched_dep <= INTERVAL '12' HOUR;

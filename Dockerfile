# docker build -t isorl . && docker run -v "$PWD/runs:/work/runs" isorl train seed=1
FROM python:3.12-slim
COPY . /isorl
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c /isorl/constraints.txt /isorl
WORKDIR /work
ENTRYPOINT ["isorl"]

package main
import ("testing";"os";"fmt";"time";"hilum/plugins/api")
func TestDev(t *testing.T){
 d:=newTestDetector(t,blobFolder,runtimePath,os.Stderr); d.threshold=0.4
 for _,s:=range []string{"lidc-0001","ct-chest-siemens","ct-chest-ge-jpegls","lidc-0002-j2k","lungfcp-jpegls"}{
 st:=time.Now()
 r,err:=d.Analyze(t.Context(),api.Job{ID:"1",Folder:"/work/shared/data/"+s,Device:"cpu"},func(f float64,m string){})
 fmt.Println("==",s,err,time.Since(st),r.Attributes,len(r.Findings))
 for i,f:=range r.Findings { fmt.Printf("== %2d %.3f d=%.1f %.1f\n",i,f.Probability,f.DiameterMM,f.Center)}}
}
